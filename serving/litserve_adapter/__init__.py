"""LitServe as this server needs it. Private and undocumented names of LitServe and multiprocessing are used only here.

tests/unit/serving/test_litserve_adapter.py checks each of these names.
"""

from litserve import __version__

SUPPORTED = ((0, 2, 19), (0, 3))  # from, below

if not SUPPORTED[0] <= tuple(int(part) for part in __version__.split(".")[:3]) < SUPPORTED[1]:
    raise ImportError(
        f"litserve {__version__} is not supported: install litserve>=0.2.19,<0.3, "
        "or check serving/litserve_adapter with tests/unit/serving/test_litserve_adapter.py and widen SUPPORTED"
    )
