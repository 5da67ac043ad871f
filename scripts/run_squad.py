import sys

from bert_tools.cli.run_squad import main

sys.exit(main())
