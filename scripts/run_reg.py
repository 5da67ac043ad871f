import sys

from bert_tools.cli.run_reg import main

sys.exit(main())
