import sys

from kubectl_vernal.main import main

sys.exit(main())
