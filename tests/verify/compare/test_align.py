"""align(ours, theirs) on hand-made traces shaped like llama.cpp's: each rule, and what it leaves out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.model.trace import Trace, TracedTensor
from refembed.verify.compare.align import align, without_empty_cells

T, C = 7, 6


def trace(*taps, nodes=None):
    """Taps from "name", (name, op), (name, op, shape) or (name, op, array); shape (T, C) where none is given."""
    made = []
    for i, tap in enumerate(taps):
        name, op, what = (
            (*((tap,) if isinstance(tap, str) else tap), "", None)[:3] if isinstance(tap, str) else (*tap, None)[:3]
        )
        shape = (T, C) if what is None else what
        array = shape if isinstance(shape, np.ndarray) else np.full(shape, i + 1, np.float32)
        made.append(TracedTensor(name, array, op))
    return Trace(made, {} if nodes is None else {"nodes": nodes})


def pairs(ours, theirs):
    """(our name, our k, their place, how) of each pair."""
    return [(p.name, p.k, p.theirs, p.by) for p in align(ours, theirs).pairs]


def test_names_that_repeat_pair_in_order():
    ours = trace("Qcur-0", "Qcur-0", "Kcur-0")
    theirs = trace(("Qcur-0", "MUL_MAT"), ("Qcur-0", "ADD"), ("Kcur-0", "MUL_MAT"))
    assert pairs(ours, theirs) == [("Qcur-0", 0, 0, "name"), ("Qcur-0", 1, 1, "name"), ("Kcur-0", 0, 2, "name")]


def test_order_need_not_be_the_same():
    """With a KV cache llama.cpp computes V before K."""
    ours = trace("Qcur-0", "Kcur-0", "Vcur-0", "kq-0")
    theirs = trace(("Qcur-0", "MUL_MAT"), ("Vcur-0", "MUL_MAT"), ("Kcur-0", "MUL_MAT"), ("kq-0", "MUL_MAT"))
    assert pairs(ours, theirs) == [
        ("Qcur-0", 0, 0, "name"),
        ("Kcur-0", 0, 2, "name"),
        ("Vcur-0", 0, 1, "name"),
        ("kq-0", 0, 3, "name"),
    ]


def test_views_are_left_out():
    """Qcur-0 reshaped to heads carries the same name; derived names say what they are."""
    ours = trace("Qcur-0", "kqv_out-0")
    theirs = trace(
        ("Qcur-0", "MUL_MAT"),
        ("Qcur-0", "RESHAPE", (T, 2, 3)),
        ("Qcur-0 (view)", "VIEW", (T, 2, 3)),
        ("Qcur-0 (view) (permuted)", "PERMUTE", (2, T, 3)),
        ("kqv_out-0", "CONT"),
    )
    found = align(ours, theirs)
    assert [(p.ours, p.theirs) for p in found.pairs] == [(0, 0), (1, 4)]
    assert found.ours_only == found.theirs_only == ()


def test_a_view_of_an_unnamed_node_stands_for_it():
    """Flash attention: kqv_out is first a RESHAPE of node_K, then the projected sum."""
    ours = trace("kqv_out-0", "kqv_out-0")
    theirs = trace(
        ("Kcur-0 (permuted) (copy)", "CPY", (2, T, 3)),
        ("node_26", "FLASH_ATTN_EXT", (T, 2, 3)),
        ("kqv_out-0", "RESHAPE"),
        ("node_28", "MUL_MAT"),
        ("kqv_out-0", "ADD"),
    )
    assert pairs(ours, theirs) == [("kqv_out-0", 0, 2, "name"), ("kqv_out-0", 1, 4, "name")]


def test_a_view_that_brings_a_name_counts_only_where_ours_has_it_too():
    """A fused QKV weight: Qcur is a VIEW of wqkv, then the rotated one."""
    theirs = trace(("wqkv-0", "MUL_MAT", (T, 3 * C)), ("Qcur-0", "VIEW"), ("Qcur-0", "ROPE"))
    assert pairs(trace("Qcur-0", "Qcur-0"), theirs) == [
        ("Qcur-0", 0, 1, "name"),
        ("Qcur-0", 1, 2, "name"),
    ]
    assert pairs(trace("Qcur-0"), theirs) == [("Qcur-0", 0, 2, "name")]
    assert [(p.ours, p.theirs) for p in align(theirs, trace("Qcur-0")).pairs] == [
        (2, 0)
    ]  # either trace may be llama.cpp's


def test_a_view_brings_a_name_once():
    """Cut out of the fused tensor, then reshaped to heads, then rotated: two tensors."""
    theirs = trace(("Qcur-0", "VIEW"), ("Qcur-0", "RESHAPE"), ("Qcur-0", "ROPE"))
    assert pairs(trace("Qcur-0", "Qcur-0"), theirs) == [("Qcur-0", 0, 0, "name"), ("Qcur-0", 1, 2, "name")]


def test_what_is_stored_in_a_cache_is_not_one_more_tensor():
    theirs = trace(("Kcur-0", "ROPE"), ("cache_k_l0 (view)", "SET_ROWS", (9, C)), ("Kcur-0 (permuted) (copy)", "CPY"))
    assert align(trace("Kcur-0"), theirs).theirs_only == ()


def test_a_layout_copy_need_not_have_a_partner():
    theirs = trace(("v_cont-0", "CONT", (2, 3, T)), ("result_embd", "ADD"), ("result_embd (transposed) (cont)", "CONT"))
    assert align(trace("result_embd"), theirs).theirs_only == ()


def test_a_layout_copy_pairs_where_ours_has_it():
    theirs = trace(("v_cont-0", "CONT", (2, 3, T)))
    assert pairs(trace(("v_cont-0", "", (2, 3, T))), theirs) == [("v_cont-0", 0, 0, "name")]


def test_an_unnamed_node_pairs_by_place():
    """BERT's layer output: unnamed, between the norm's product and the next layer's Q."""
    ours = trace("norm_w-0", "l_out-0", "Qcur-1")
    theirs = trace(("norm_w-0", "MUL"), ("node_45", "ADD"), ("Qcur-1", "MUL_MAT"))
    assert pairs(ours, theirs)[1] == ("l_out-0", 0, 1, "place")


def test_place_wants_the_same_shape_and_the_same_neighbors():
    ours = trace("a", "mine", "b")
    theirs = trace("a", ("node_1", "ADD", (T, 2)), "b", ("node_3", "ADD"))
    found = align(ours, theirs)
    assert len(found.pairs) == 2
    assert found.ours_only == (1,)


def test_several_unnamed_nodes_pair_in_order():
    ours = trace("a", "one", "two", "b")
    theirs = trace("a", ("node_1", "MUL_MAT"), ("node_2", "ADD", (1, C)), ("node_3", "ADD"), "b")
    assert pairs(ours, theirs)[1:3] == [("one", 0, 1, "place"), ("two", 0, 3, "place")]


def test_a_place_is_taken_once():
    ours = trace("a", "one", "two", "b")
    assert align(ours, trace("a", ("node_1", "ADD"), "b")).ours_only == (2,)


def test_rows_that_are_all_rows_are_left_out():
    """The last layer's out_ids: GET_ROWS of everything, before the sum that is meant."""
    x, y = np.arange(T * C, dtype=np.float32).reshape(T, C), np.ones((T, C), np.float32)
    theirs = trace(("kqv_out-5", "ADD", x), ("node_208", "GET_ROWS", x), ("node_210", "ADD", y), ("norm-5", "NORM"))
    assert pairs(trace("kqv_out-5", "sum", "norm-5"), theirs)[1] == ("sum", 0, 2, "place")


def test_rows_that_are_picked_stay():
    """Position embeddings are GET_ROWS too."""
    x, y = np.arange(T * C, dtype=np.float32).reshape(T, C), np.ones((T, C), np.float32)
    theirs = trace(("embd", "GET_ROWS", x), ("node_4", "GET_ROWS", y), ("inp_embd", "ADD"))
    assert pairs(trace("embd", "pos", "inp_embd"), theirs)[1] == ("pos", 0, 1, "place")


def test_nodes_that_nothing_depends_on_are_left_out():
    """The pinned build begins BERT with three nodes for mixed input; only the sources show that they are dead."""
    theirs = trace(
        ("embd", "GET_ROWS"),
        ("node_1", "GET_ROWS"),
        ("node_2", "DUP"),
        (" (view)", "SET_ROWS"),
        ("node_4", "GET_ROWS"),
        ("inp_embd", "ADD"),
        nodes=[
            {"sources": ["token_embd.weight", "inp_tokens"], "view_of": None},
            {"sources": ["token_embd.weight", "inp_mixed_tokens"], "view_of": None},
            {"sources": ["inp_mixed_embd"], "view_of": None},
            {"sources": [1, "inp_mixed_slots", 2], "view_of": 2},
            {"sources": ["position_embd.weight", "inp_pos"], "view_of": None},
            {"sources": [0, 4], "view_of": None},
        ],
    )
    assert pairs(trace("embd", "pos", "inp_embd"), theirs)[1] == ("pos", 0, 4, "place")


def test_what_is_written_to_a_cache_is_alive():
    theirs = trace(
        ("a", "MUL_MAT"),
        ("node_1", "ROPE"),
        ("cache_k_l0 (view)", "SET_ROWS", (9, C)),
        ("b", "ADD"),
        nodes=[
            {"sources": ["w"], "view_of": None},
            {"sources": [0], "view_of": None},
            {"sources": [1, "rows"], "view_of": "cache_k_l0"},
            {"sources": ["cache_k_l0"], "view_of": None},
        ],
    )
    assert pairs(trace("a", "roped", "b"), theirs)[1] == ("roped", 0, 1, "place")


def test_axes_of_length_one_do_not_matter():
    assert pairs(trace(("pooled", "", (C,))), trace(("pooled", "MUL_MAT", (1, C)))) == [("pooled", 0, 0, "name")]


def test_one_name_and_two_shapes_is_a_finding():
    found = align(trace(("kq-0", "", (2, T, T))), trace(("kq-0", "MUL_MAT", (2, T, 8))))
    assert found.pairs == ()
    assert (found.ours_only, found.theirs_only) == ((0,), (0,))


def test_what_is_missing_is_reported_on_its_side():
    found = align(trace("a", "only_ours"), trace(("a", "ADD"), ("only_theirs", "ADD"), ("node_2", "ADD", (3,))))
    assert (found.ours_only, found.theirs_only) == ((1,), (1,))


@given(st.lists(st.sampled_from(["a", "b-0", "node_3", "c (view)", "Qcur-1"]), max_size=12))
def test_a_trace_aligns_with_itself(names):
    """Every tap that counts finds itself."""
    t = trace(*((n, "ADD", (i % 3 + 2, C)) for i, n in enumerate(names)))
    found = align(t, t)
    assert all(p.ours == p.theirs for p in found.pairs)
    assert found.ours_only == found.theirs_only == ()


@pytest.mark.parametrize("op", ["VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE", "CONT", "CPY", "DUP"])
def test_unnamed_nodes_that_compute_nothing_take_no_place(op):
    theirs = trace("a", ("node_1", op), ("node_2", "ADD"), "b")
    assert pairs(trace("a", "sum", "b"), theirs)[1] == ("sum", 0, 2, "place")


def test_cells_of_a_cache_that_hold_no_token_are_cut_off():
    """With a KV cache scores have a column for each of 256 cells; the first T are the text's."""
    theirs = trace(
        ("kq-0", "MUL_MAT", (2, T, 256)), ("kq_soft_max-0", "SOFT_MAX", (2, T, 512)), ("kqv-0", "", (2, T, 3))
    )
    ours = trace(("kq-0", "", (2, T, T)), ("kq_soft_max-0", "", (2, T, T)), ("kqv-0", "", (2, T, 3)))
    assert [(p.ours, p.theirs) for p in align(ours, theirs).pairs] == [(0, 0), (1, 1), (2, 2)]
    cut = without_empty_cells(theirs)
    assert [t.array.shape for t in cut.tensors] == [(2, T, T), (2, T, T), (2, T, 3)]
    assert without_empty_cells(ours) is ours


def test_only_scores_are_cut():
    """A value as wide as a block of cells is what it is."""
    wide = trace(("kqv-0", "", (2, T, 256)), ("ffn_up-0", "", (T, 256)))
    assert without_empty_cells(wide) is wide


def test_with_flash_attention_what_latent_heads_mixed_has_another_name():
    """`kqv_mla` and `fattn_mla` of build_attn_mha: one product with attn_v_b, (H, T, Dv) on both ways."""
    ours = trace(("kqv_mla-0", "", (2, T, 3)), "kqv_out-0")
    theirs = trace(("fattn_mla-0", "MUL_MAT", (2, T, 3)), ("kqv_out-0", "RESHAPE"))
    assert pairs(ours, theirs) == [("kqv_mla-0", 0, 0, "name"), ("kqv_out-0", 0, 1, "name")]
    assert align(ours, theirs).theirs_only == ()
    both = trace(("kqv_mla-0", "MUL_MAT", (2, T, 3)), ("kqv_out-0", "CONT"))
    assert [p.name for p in align(both, theirs).pairs] == ["kqv_mla-0", "kqv_out-0"]


def test_logits_are_left_out():
    """llama.cpp computes them for every decoder; no embedding depends on them."""
    theirs = trace(("result_norm", "MUL"), ("result_output", "MUL_MAT", (T, 99)), ("result_embd_pooled", "MUL_MAT"))
    found = align(trace("result_norm", "result_embd_pooled"), theirs)
    assert (found.ours_only, found.theirs_only) == ((), ())
