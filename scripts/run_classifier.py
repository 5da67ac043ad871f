import sys

from bert_tools.cli.run_classifier import main

sys.exit(main())
