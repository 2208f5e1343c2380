import pytest
import torch
from torch import nn

from wnseq.errors import ShapeError
from wnseq.functional import compose, decompose_like, direction_norm, weight_norm
from wnseq.state_dict import FORMS, convert_keys, find_halves, find_pairs, param_names, to_wnseq


def forms(w):
    v, g = 2 * w, w.view(len(w), -1).norm(dim=1)
    column = g.view(-1, *[1] * (w.ndim - 1))
    return {
        "plain": {"a.w": w},
        "wnseq": {"a.w_v": v, "a.w_g": g},
        "torch_hooks": {"a.w_v": v, "a.w_g": column},
        "torch_parametrizations": {"a.parametrizations.w.original0": column, "a.parametrizations.w.original1": v},
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


@pytest.mark.parametrize("shape", [(4, 3), (1, 3), (4, 1), (1, 1), (4, 3, 2), (4,)])
@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("source", FORMS)
def test_every_form_becomes_every_other(source, target, shape):
    w = torch.randn(shape)
    entries = {**forms(w)[source], "a.bias": torch.ones(2)}
    before = dict(entries)
    made = convert_keys(entries, iter(["w", "absent"]), target, "a.")
    expected = {**forms(w)[target], "a.bias": torch.ones(2)}
    assert {key: value.shape for key, value in made.items()} == {key: value.shape for key, value in expected.items()}
    torch.testing.assert_close(convert_keys(made, ["w"], "plain", "a.")["a.w"], w)
    by_path = convert_keys(entries, ["a.w"], target)  # a name may be a path
    assert by_path.keys() == made.keys() and all(torch.equal(by_path[key], made[key]) for key in made)
    assert entries == before
    if source == target:
        assert all(torch.equal(made[key], entries[key]) for key in entries)  # to the bit


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match=r"form must be one of plain, wnseq, .*, got 'keras'"):
        convert_keys({}, [], "keras")


def test_a_row_of_zeros_has_a_direction_in_every_form():
    w = torch.randn(4, 3)
    w[1] = 0
    for form in ("wnseq", "torch_hooks", "torch_parametrizations"):
        made = convert_keys({"w": w}, ["w"], form)
        assert all(bool(value.flatten(1).any(1).all()) for value in made.values() if value.shape == w.shape)
        torch.testing.assert_close(convert_keys(made, ["w"], "plain")["w"], w)


@pytest.mark.parametrize("dim", [0, 1, 2, None])
@pytest.mark.parametrize("shape", [(4, 3, 2), (1, 3, 2), (4, 1, 2), (1, 1, 2), (3, 3, 3)])
def test_the_axis_is_read_from_the_shape_of_g(shape, dim):
    v = torch.randn(shape)
    twin = nn.utils.parametrizations.weight_norm(nn.ParameterDict({"w": v}), "w", dim)
    g = twin.parametrizations.w.original0.detach().mul_(-3)
    torch.testing.assert_close(compose(v, g), twin["w"].detach())


@pytest.mark.parametrize("shape", [(4, 3, 2), (3, 3, 2), (1, 3, 2), (3, 1, 2), (1, 1, 2)])
def test_a_scale_along_the_second_axis_goes_through_every_form(shape):
    w, layout = torch.randn(shape), {"w": (1, 1)}
    spelled = {form: convert_keys({"a.w": w}, layout, form, "a.") for form in FORMS}
    assert spelled["wnseq"]["a.w_g"].shape == (shape[1],) and spelled["torch_hooks"]["a.w_g"].shape == (1, shape[1], 1)
    for entries in spelled.values():
        for form in FORMS:
            made = convert_keys(entries, layout, form, "a.")
            assert {key: value.shape for key, value in made.items()} == {k: v.shape for k, v in spelled[form].items()}
        torch.testing.assert_close(made_plain := convert_keys(entries, layout, "plain", "a.")["a.w"], w)
        assert made_plain.shape == w.shape


def test_a_scale_along_another_axis_than_the_layout_s_keeps_its_shape():
    v = torch.randn(4, 3, 2)
    for column in (torch.rand(4, 1, 1), torch.rand(1, 1, 2)):
        for form in ("wnseq", "torch_hooks"):
            made = convert_keys({"w_v": v, "w_g": column}, {"w": (1, 1)}, form)
            assert torch.equal(made["w_g"], column)
    across = {"w_v": v, "w_g": torch.rand(1, 3, 1)}  # torch's dim=1, which pays no regard to groups
    assert to_wnseq(across, {"w": (1, 2)})["w_g"].shape == (1, 3, 1)
    torch.testing.assert_close(compose(**{k[2:]: t for k, t in across.items()}, dim=1, groups=2),
                               weight_norm(v, across["w_g"].flatten(), 1))  # fmt: skip


def test_scales_of_groups_are_refused_in_torch_s_forms():
    with pytest.raises(ValueError, match=r"convert_keys: a.w has a scale for each output of each of its 2 groups"):
        convert_keys({"a.w": torch.randn(4, 3, 2)}, {"w": (1, 2)}, "torch_hooks", "a.")


@pytest.mark.parametrize(("shape", "dim", "groups"), [((6,), 1, 2), ((4, 1, 1), 1, 2), ((1, 3, 1), 0, 1), ((), 0, 1)])
def test_splitting_as_a_scale_lies_is_the_inverse(shape, dim, groups):
    w = torch.randn(4, 3, 2)
    v, g = decompose_like(w, torch.empty(shape), dim, groups)
    assert g.shape == shape and v.shape == w.shape
    torch.testing.assert_close(compose(v, g, dim, groups), w)
    torch.testing.assert_close(direction_norm(v, g, dim, groups), g)


def test_a_scale_of_a_wrong_shape_is_refused():
    for shape in [(3,), (4, 3), (2, 1), (1, 1, 1)]:
        with pytest.raises(ShapeError, match=r"one entry for each index of one axis of v, whose shape is \(4, 3\)"):
            compose(torch.ones(4, 3), torch.ones(shape))


def test_other_keys_are_kept():
    entries = {"a.bias": torch.ones(4), "w": torch.ones(4, 3), "b.w": torch.ones(2, 2)}
    assert to_wnseq(entries, ["w"], "a.") == entries


@pytest.mark.parametrize("form", ["wnseq", "torch_hooks", "torch_parametrizations"])
@pytest.mark.parametrize("name", ["weight", "weight_hh_l1_reverse"])
def test_half_of_a_pair_is_found(form, name):
    entries = convert_keys({f"a.{name}": torch.randn(4, 3)}, [name], form, "a.")
    assert find_halves({**entries, "q_v": torch.ones(2), "weights_g": torch.ones(2)}) == []
    for key in entries:
        assert find_halves({key: entries[key]}) == [key]


def test_a_vector_that_is_of_no_axis_is_no_scale():
    v = torch.randn(6, 5)
    for length, is_pair in ((6, True), (5, True), (10, True), (1, True), (7, False), (3, False)):
        assert bool(find_pairs({"q_v": v, "q_g": torch.ones(length)})) == is_pair


def test_names_of_v_and_g():
    assert param_names("weight_ih_l0") == ("weight_ih_l0_v", "weight_ih_l0_g")
