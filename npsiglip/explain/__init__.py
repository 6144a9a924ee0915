"""A page that shows what a SigLIP does with one picture and some labels: `npsiglip explain`.

gather      everything that the page shows, from a real trace     measures    what is measured on taps
training    the curve of a training, and its checkpoints          panels      the words of the eleven panels
static      the panels as they stand without JavaScript            page        one file of it all
source      lines of the reference                                arrays, weights    numbers in a page
live/       a SigLIP in plain JavaScript, held to the conformance packs; view/ what shows it
"""
