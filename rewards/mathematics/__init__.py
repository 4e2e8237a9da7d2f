r"""Are two mathematical answers equal? The full path of `MathAnswer`, in layers:

    spellings    what Unicode, LaTeX and keyboards write for one and the same thing
    notation     the text of an answer in one plain notation
    numerals     numerals with commas, which can be two things, and in other bases
    units        what stands behind a number
    arithmetic   SymPy's, with a bound on the size of numbers
    expressions  an expression as a SymPy object, with exact decimals
    answers      an answer as a structure: quantity, list, tuple, interval, equation, set, matrix, text
    equality     whether two expressions are equal, and never by rounding
    comparison   whether two answers are equal under a policy
    check        the function that worker processes run

`tolerance` is the policy on written decimals, which the fast path (`fast_match`) shares.

Importing this package imports none of them: those from `arithmetic` on need SymPy, and answers can send it into minutes
of computing, so they run in worker processes only.
"""
