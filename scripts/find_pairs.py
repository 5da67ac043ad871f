import sys

from bert_tools.cli.find_pairs import main

sys.exit(main())
