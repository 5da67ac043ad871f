import sys

from bert_tools.cli.run_ner import main

sys.exit(main())
