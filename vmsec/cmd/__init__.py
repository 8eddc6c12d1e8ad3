"""Entry points: one module per program, and what daemons share."""

import warnings

# oslo.messaging loads oslo.service, which loads eventlet, which then warns
# on standard error against its own use. vmsec uses threads and no eventlet.
warnings.filterwarnings("ignore", message=r"(?s)\s*Eventlet is deprecated")
