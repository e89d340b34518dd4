"""What every test process needs."""

import signal
import threading

# A shell starts background jobs with Ctrl-C ignored, and children inherit that; the tests of Ctrl-C would wait in vain.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
