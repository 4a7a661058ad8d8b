"""Optical flow: where every pixel of a picture is in another one."""
