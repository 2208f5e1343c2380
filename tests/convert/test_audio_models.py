"""The weight norm of audio models of other libraries, taken over by name: small, with random weights. Slow."""

import copy
import io
import pickle

import pytest
import torch
from cases import normalized_weights
from torch import nn

from wnseq import remove_weight_norm, state_dict_as, weight_normalize

SPEECH = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": (16, 16),
    "conv_kernel": (4, 4), "conv_stride": (2, 2), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
HIFIGAN = {"model_in_dim": 8, "upsample_initial_channel": 16, "upsample_rates": [2, 2], "upsample_kernel_sizes": [4, 4],
           "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]]}  # fmt: skip
VITS = {
    "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16,
    "flow_size": 16,
    "spectrogram_bins": 9, "upsample_initial_channel": 16, "upsample_rates": [2, 2], "upsample_kernel_sizes": [4, 4],
    "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]], "posterior_encoder_num_wavenet_layers": 2,
    "prior_encoder_num_wavenet_layers": 2, "prior_encoder_num_flows": 2, "wavenet_kernel_size": 3,
}  # fmt: skip
MODELS = {
    "Encodec": ("transformers", {"num_filters": 4, "hidden_size": 16, "codebook_size": 8, "upsampling_ratios": [2, 2]}),
    "SpeechT5HifiGan": ("transformers", HIFIGAN),
    "Wav2Vec2": ("transformers", SPEECH),
    "Hubert": ("transformers", SPEECH),
    "WavLM": ("transformers", SPEECH),
    "Vits": ("transformers", VITS),
    "SNAC": ("snac", {"encoder_dim": 4, "encoder_rates": [2, 2], "decoder_dim": 16, "decoder_rates": [2, 2],
                      "attn_window_size": None, "codebook_size": 8, "codebook_dim": 4, "vq_strides": [2, 1]}),
    "SEANetEncoder": ("encodec", {"n_filters": 4, "dimension": 16, "ratios": [2, 2], "lstm": 1}),
}  # fmt: skip


def make(name: str) -> nn.Module:
    library, options = MODELS[name]
    reason = f"{library} or what it imports is not installed, and no dependency of wnseq: pip install {library}"
    package = pytest.importorskip(library, reason=reason, exc_type=ImportError)
    torch.manual_seed(0)
    if library == "encodec":
        return pytest.importorskip("encodec.modules", reason=reason, exc_type=ImportError).SEANetEncoder(**options)
    if library == "snac":
        return package.SNAC(**options)
    config = getattr(package, f"{name}Config", None)(**options)
    model = getattr(package, name if name == "SpeechT5HifiGan" else f"{name}Model")(config)
    if name == "SpeechT5HifiGan":
        model.apply_weight_norm()  # as its conversion script and its training do
    if name == "Vits":
        model.decoder.apply_weight_norm()
    return model


def run(model: nn.Module, name: str) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        if name == "Encodec":
            return model.decoder(model.encoder(torch.randn(1, 1, 64)))
        if name == "SNAC":
            return model.decoder(model.encoder(torch.randn(1, 1, 64)))
        if name == "SEANetEncoder":
            return model(torch.randn(1, 1, 64))
        if name == "SpeechT5HifiGan":
            return model(torch.randn(1, 12, 8))
        if name == "Vits":
            return model(torch.arange(6)[None]).waveform
        return model(torch.randn(1, 400)).last_hidden_state


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of those libraries
@pytest.mark.parametrize("name", MODELS)
def test_adopted_and_back(name: str) -> None:
    theirs, again = make(name).eval(), make(name).eval()
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if key.endswith(("_g", "original0")):
                parameter.mul_(0.5 + torch.rand_like(parameter))
    names = normalized_weights(theirs)
    expected, state = run(theirs, name), {key: value.clone() for key, value in theirs.state_dict().items()}
    ours = weight_normalize(theirs, adopt=True)
    assert names and normalized_weights(ours) == names
    assert type(ours) is type(theirs)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    folded = remove_weight_norm(ours)
    assert normalized_weights(folded) == []
    made = {"ours": ours, "copied": copy.deepcopy(ours), "saved": loaded, "pickled": pickle.loads(pickle.dumps(ours)),
            "folded": folded}  # fmt: skip
    errors = {way: (run(model, name) - expected).abs().max().item() for way, model in made.items()}
    print(
        f"\n{name}: {len(names)} weights, largest difference {max(errors.values()):.1e} at {expected.abs().max():.2g}"
    )
    assert max(errors.values()) <= 1e-6 * min(1.0, expected.abs().max().item()), errors
    back = state_dict_as(ours, like=theirs)
    assert list(back) == list(state) and all(torch.equal(back[key], value) for key, value in state.items())
    again.load_state_dict(back)
    assert torch.equal(run(again, name), expected)
