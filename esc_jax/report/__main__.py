"""`python -m esc_jax.report`."""

import sys

from esc_jax.report.command import main

sys.exit(main())
