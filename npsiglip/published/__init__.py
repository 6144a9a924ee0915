"""Checking numbers against numbers: what others published of the released checkpoints."""
