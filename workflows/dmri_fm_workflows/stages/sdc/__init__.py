"""Stage of the susceptibility correction (SDC): one module per method."""
