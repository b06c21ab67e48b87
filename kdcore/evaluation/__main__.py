"""`python -m kdcore.evaluation`: a trained network on a folder of scans."""

from kdcore.evaluation.folder import main

raise SystemExit(main())
