"""Each operation of the `cupy` numerics, on the CPU, against formulas in plain Python: the tests of `exact` and `fast`.

The tests are theirs; the fixture `ops` is this folder's (conftest.py).
"""

# ruff: noqa: F401  # pytest collects what is imported
from __future__ import annotations

from tests.kernels.exact.test_operations import (
    test_a_sink_is_a_key_whose_value_is_nothing,
    test_a_traced_operation_gives_the_bits_of_a_silent_one,
    test_add_layer_norm_is_the_layer_norm_of_the_sum,
    test_attention_looks_at_its_own_text_only,
    test_attention_survives_scores_of_any_size,
    test_gelu_is_the_tanh_form_everywhere,
    test_layer_norm_is_the_papers_formula,
    test_layer_norm_needs_no_bias,
    test_linear_is_the_sum_of_products_plus_bias,
    test_linear_on_whole_numbers_is_exact,
)
from tests.kernels.fast.test_decoder import (
    test_a_bias_is_added_to_the_scores_of_every_text,
    test_a_short_convolution_looks_back_inside_its_text,
    test_a_texts_attention_does_not_depend_on_its_neighbors,
    test_activations_are_their_formulas_everywhere,
    test_activations_survive_numbers_of_any_size,
    test_attention_with_masks_groups_and_caps_is_the_formula,
    test_experts_multiply_each_token_by_its_own_matrices,
    test_mean_is_each_texts_own,
    test_rms_norm_is_the_papers_formula,
    test_softmax_and_tanh_are_their_formulas,
    test_the_gate_comes_first,
)
from tests.kernels.fast.test_recurrent import (
    test_a_bias_is_added_to_a_convolution,
    test_gates_are_their_formulas,
    test_no_text_sees_another,
    test_rwkvs_state_is_its_formula,
    test_the_delta_rule_is_its_formula,
    test_the_scan_is_its_formula,
)
from tests.kernels.test_image_ops import (
    test_each_patch_goes_through_the_kernel_and_a_rest_is_not_read,
    test_planes_are_interpolated_corner_to_corner,
    test_quick_gelu_is_x_times_a_sigmoid,
    test_squares_are_averaged,
)
