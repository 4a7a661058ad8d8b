"""Exact numpy and scipy measures of masks, one file per benchmark family."""
