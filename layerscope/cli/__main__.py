"""The command line as ``python -m layerscope.cli``."""

from layerscope.cli import main

raise SystemExit(main())
