"""Every input of x as a vector of one length."""

import pytest
import torch

from iak.pipeline.model.input_vectors import InputVectors


def test_an_embedding_of_the_vectors_width_is_its_own_vector_at_first():
    vectors = InputVectors(embeddings=[2, 3], numbers=0, width=3)
    x_BX = torch.randn(4, 5)
    e_BFK, n_BNK = vectors(x_BX)
    assert torch.equal(e_BFK[:, 1], x_BX[:, 2:])
    torch.testing.assert_close(e_BFK[:, 0], x_BX[:, :2] @ vectors.weight_KX[:, :2].T)
    assert n_BNK.shape == (4, 0, 3)


def test_a_number_is_the_length_of_its_learned_vector():
    vectors = InputVectors(embeddings=[2], numbers=2, width=3)
    x_BX = torch.tensor([[0.0, 0.0, 2.0, -1.0]])
    _, n_BNK = vectors(x_BX)
    first_K, second_K = vectors.weight_KX[:, 2], vectors.weight_KX[:, 3]
    torch.testing.assert_close(n_BNK[0], torch.stack([2 * first_K, -second_K]))


def test_numbers_alone_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"the catalogue has none.*model\.trunk=mlp"):
        InputVectors(embeddings=[], numbers=2, width=3)
