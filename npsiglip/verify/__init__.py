"""Where does a port of SigLIP go wrong, by how much, and what is the mistake?

    operations   the forward pass as a list of operations with named inputs and outputs
    arithmetic   honest ways to compute them: orders of summation, bfloat16, float16, 8 bits
    replay       each operation on the candidate's own input: what it added, and what rounding explains
    mistakes     a catalogue of known mistakes, each a small change to an operation
    diagnose     which mistake reproduces the candidate's numbers
    where        which part of a tensor is wrong
    layouts      the candidate's axes; names: what others call our taps
    files        traces in files
    report       what is said of it

Candidates and golden traces are mappings of names to arrays: whoever has a dictionary can compare.
"""
