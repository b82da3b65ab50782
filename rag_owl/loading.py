"""Building models of transformers, one at a time in a process.

While transformers loads a model (5.17: `initialization.no_tie_weights`, `no_init_weights`), it
replaces methods of all its classes and functions of torch, and puts back afterwards what it found.
Of two loads that overlap, the second finds the first one's empty replacements and leaves them in
place for good: from then on no model of the process ties its weights. A model that is built while
another is loaded gets them too. So whoever loads or builds one holds this.
"""

from __future__ import annotations

import threading

ONE_AT_A_TIME = threading.RLock()
