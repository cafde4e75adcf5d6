"""`python -m visionssm` is the `visionssm` command."""

from .cli.main import main

raise SystemExit(main())
