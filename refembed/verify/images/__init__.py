"""`verify` for images: an engine's vision tower, and its vectors of texts with images, against the reference's.

pictures    what is asked about, where the user names no image
reference   how rows of an image and vectors of texts with images come about, with places for changes
pixels, towers, texts    hypotheses: one thing each that engines do otherwise; changes: how a tower is changed
tensors     the first wrong tensor of an engine's tower
search      which of them explains what an engine does
run         the whole, and the verdict
report      what the verdict's HTML page shows
"""
