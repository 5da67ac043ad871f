import sys

from bert_tools.cli.beam_extract import main

sys.exit(main())
