"""Certificate templates: data that decides subject, names, validity and every extension of a certificate.

``model`` is what a template file says, ``checks`` what it may not say, ``build`` turns it into the content of one
certificate. A client's wishes are used only where the template says so and only as far as its patterns allow.
"""
