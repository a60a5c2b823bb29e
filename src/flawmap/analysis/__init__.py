"""What is known of a bundle beyond single verdicts, as functions: each does what a command of the command line does.

Where a bundle is asked for, its folder does, as text or Path; where photos are, files and folders do.
"""
