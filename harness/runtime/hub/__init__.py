"""Models and data sets from hubs: found, downloaded, checked, published whole. Standard library only.

files         what a repository holds, and how a file is told from a damaged one
web           one request, and what servers say when they refuse
huggingface   the protocol of Hugging Face's hub and of its mirrors
modelscope    the protocol of ModelScope
transfer      one file from the first hub that gives it, going on where an earlier try was cut off
store         where files lie below a root: the layout of Hugging Face's own client, and a plain folder
fetch         all of it: from a name to a folder that jobs find
"""
