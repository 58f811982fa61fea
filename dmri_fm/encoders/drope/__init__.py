"""The D-RoPE encoder.

Public: `config` and `network` (the encoder), `tokens` (its input), `encoder` (its adapter to
:class:`~dmri_fm.encoders.base.Encoder`), `authors_checkpoint` (conversion), and for training and
evaluation `mae`, `pooling` and `masked_directions`. All other modules are
private to this package.
"""
