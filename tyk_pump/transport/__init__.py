"""How bytes reach a back end: what several pumps share, beside them."""
