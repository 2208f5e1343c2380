import torch

from wnseq.names import stored, to_wnseq
from wnseq.weight_norm import weight_norm


def forms(w):
    v, g = 2 * w, w.norm(dim=1)
    return {
        "wnseq": {"a.w_v": v, "a.w_g": g},
        "plain": {"a.w": w},
        "torch, old": {"a.w_v": v, "a.w_g": g[:, None]},
        "torch": {"a.parametrizations.w.original0": g[:, None], "a.parametrizations.w.original1": v},
    }


def test_every_form_becomes_ours():
    w = torch.randn(4, 3)
    for entries in forms(w).values():
        before = dict(entries)
        ours = to_wnseq(entries, ["w"], "a.")
        assert set(ours) == {"a.w_v", "a.w_g"}
        assert ours["a.w_g"].shape == (4,)
        torch.testing.assert_close(weight_norm(ours["a.w_v"], ours["a.w_g"]), w)
        assert entries == before  # the caller's dictionary is left as it was


def test_other_keys_are_kept():
    entries = {"a.bias": torch.ones(4), "w": torch.ones(4, 3), "b.w": torch.ones(2, 2)}
    assert to_wnseq(entries, ["w"], "a.") == entries


def test_names_of_v_and_g():
    assert stored("weight_ih_l0") == ("weight_ih_l0_v", "weight_ih_l0_g")
