from enginebay.cli import main

main()
