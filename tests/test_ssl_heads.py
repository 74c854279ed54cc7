"""The expander against published sizes."""

from torch import nn

from viewfold.ssl.heads import expander


def test_expander_has_the_published_size_and_layers() -> None:
    head = expander(256, (1024, 1024, 1024))
    assert sum(p.numel() for p in head.parameters()) == 2_365_440
    kinds = [type(layer) for layer in head]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert head[-1].bias is None
