"""Reports of judged runs, each in its own module so that nobody loads what they do not use.

``entry`` (what a report is made from), ``html`` (one self-contained page), ``junit``, ``json_report``,
``text`` (terminal).
"""
