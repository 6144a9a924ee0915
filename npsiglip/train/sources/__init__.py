"""Pairs of pictures and captions that others made: folders, tables, tars, emoji, drawings; mixed, worded, changed.

A source knows how many pictures it has, how to read one, and what can be said of it (`pairs.Pairs`). The mixture
decides which pictures stand in a batch, by their number alone; `wording` chooses what is said, `augment` how it is
shown.
"""
