"""The one compiled part: counting for the calibration sweep. Without a C compiler NumPy does it, more slowly."""

from setuptools import Extension, setup

setup(ext_modules=[Extension("trtkit.calib._counting", ["trtkit/calib/_counting.c"], extra_compile_args=["-O3"],
                             optional=True)])
