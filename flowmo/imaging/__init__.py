"""One pixel path: reading, fitting, levels, quality and writing of pictures."""
