"""Pairs of pictures and words that others made: folders, tables, tars, emoji, drawings.

A collection knows how many pictures it has, how to read one, and what can be said of it (`npsiglip.pairs.base.Pairs`).
Training mixes several (`npsiglip.train.mixture`); `npsiglip evaluate` measures a model on one.
"""
