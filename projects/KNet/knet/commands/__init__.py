"""The programs, one a module: ``main(argv, program)`` returns the exit status.

``knet_cli.py`` has the table of what each is called; ``projects/KNet/tools`` has them as files of a
checkout.
"""
