"""The D-RoPE encoder and what pretrains it."""
