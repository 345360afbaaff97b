"""A page on this machine that shows a text's way through a model, and what a change does to it: `explain --serve`.

switches  what can be changed: pooling, the weights' type, a hypothesis of `refembed verify`
run       one text under these switches: ids, tensors, vector
pca       the hidden states of a layer in a plane
moved     how far a change moves the vector, and the first tensor that differs
words     the sentences about it
answers   what the page asks for, as JSON
app       the routes, who may ask, and how much
serve     listening
page.*    the page, and its other .js files: written by hand, served from here, loading nothing else
"""
