"""Pages that stand alone: one HTML file each, no network, readable on white, printed or on a phone.

    page       the frame: escaping, style, sections, writing the file
    picture    an array as a small PNG inside the page: heat maps
    patches    an image cut into patches, and numbers laid over it
    charts     lines and bars as SVG; token strips
    attention  a map whose layer and head a reader chooses

Every picture says in words what it shows (its alt text), and no meaning is carried by color alone.
"""
