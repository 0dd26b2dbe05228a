"""The identical-load certificate: what each backend was really sent, set against the plan and against each other.

certificate  what it says, and its file     audit  one run against its plan      fields  sampling, field by field
likeness     runs against each other        certify  makes and checks the certificate of a folder
for_comparison   what must hold before two results are compared
"""
