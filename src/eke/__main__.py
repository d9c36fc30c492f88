from eke.cli import main

main()
