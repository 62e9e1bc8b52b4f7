"""The faults of a C++ toolchain, and the words by which a compiler tells them."""

from __future__ import annotations

from llmbench.doctor.checks.registry import fault

_GXX = "apt-get install -y g++  (conda: conda install gxx; Fedora: dnf install gcc-c++)"
_FAILS = "torch.compile for the CPU fails, and so does every C++ extension"

MISSING = fault(
    "compile.compiler.missing",
    "warn",
    "There is no C++ compiler",
    cause="torch.compile cannot make CPU kernels; the compile modes will be skipped",
    fix=_GXX,
    link="https://github.com/pytorch/pytorch/issues/92745",
)
CXX_GONE = fault(
    "compile.compiler.cxx-gone",
    "fail",
    "CXX names a compiler that is gone",
    cause="torch.compile uses the compiler that CXX names, and no other: left over from a module or another machine",
    fix="unset CXX, or point it to an existing compiler",
    script="unset CXX",
)
CXX_EMPTY = fault(
    "compile.compiler.cxx-empty",
    "fail",
    "CXX is set to nothing",
    cause="torch.compile takes the empty value as the name of the compiler, instead of g++, and finds none",
    fix="unset CXX",
    script="unset CXX",
)
CXX_WORDS = fault(
    "compile.compiler.cxx-words",
    "fail",
    "CXX holds a command with options",
    cause="torch.compile takes all of CXX as the name of one program, which does not exist",
    fix="export CXX=<compiler>; for ccache, put its folder of links first on PATH: export PATH=/usr/lib/ccache:$PATH",
)
CXX_NO_PROGRAM = fault(
    "compile.compiler.cxx-no-program",
    "fail",
    "CXX names no program",
    cause="torch.compile starts what CXX names, and this cannot be started",
    fix="unset CXX, or point it to a compiler itself",
    script="unset CXX",
)
BROKEN = fault(
    "compile.compiler.broken",
    "fail",
    "The C++ compiler does not even tell its version",
    cause="this is no working C++ compiler, so torch.compile fails",
    fix="apt-get install --reinstall -y g++",
)
HANGS = fault(
    "compile.compiler.hangs",
    "fail",
    "The C++ compiler does not come to an end",
    cause="it hangs, or is so slow here that torch.compile seems to hang: a wrapper waits for a server or a lock, its "
    "files lie on a network file system that does not answer, or the machine is overloaded",
    fix="see how long it takes alone: time g++ --version; then unset CXX, or take wrappers such as ccache and "
    "distcc off PATH",
)
PARTIAL = fault(
    "compile.compiler.cc1plus",
    "fail",
    "g++ lacks the compiler proper",
    cause="the C++ compiler is broken: the driver g++ is there, but not its program cc1plus of the same version; "
    f"{_FAILS}",
    fix="apt-get install --reinstall -y g++ cpp, and the packages g++-N and gcc-N of the version that g++ "
    "--version tells",
)
BINUTILS = fault(
    "compile.compiler.binutils",
    "fail",
    "There is no assembler or linker",
    cause=f"the C++ compiler is broken: its assembler (as) or linker (ld) is not installed; {_FAILS}",
    fix="apt-get install --reinstall -y binutils  (conda: conda install binutils)",
)
LIBC = fault(
    "compile.compiler.libc",
    "fail",
    "Headers or start files of the C library are missing",
    cause=f"the C++ compiler is incomplete: headers, libc.so or crt files of the C library are not installed; {_FAILS}",
    fix="apt-get install --reinstall -y libc6-dev  (Fedora: dnf install glibc-devel; Alpine: apk add musl-dev)",
)
LIBSTDCXX = fault(
    "compile.compiler.libstdcxx",
    "fail",
    "Headers or library of C++ are missing",
    cause=f"the C++ compiler is incomplete: the standard library of C++ that belongs to it is not installed; {_FAILS}",
    fix="apt-get install --reinstall -y g++, or libstdc++-N-dev of its version  (Fedora: dnf install libstdc++-devel)",
)
LIBGCC = fault(
    "compile.compiler.libgcc",
    "fail",
    "The compiler's own library is missing",
    cause=f"the C++ compiler is incomplete: its own headers (stddef.h), crtbegin.o or libgcc are missing; {_FAILS}",
    fix="apt-get install --reinstall -y gcc g++ libgcc-s1, and the packages gcc-N and libgcc-N-dev of its version",
)
OPENMP = fault(
    "compile.compiler.openmp",
    "fail",
    "The compiler has no OpenMP",
    cause="torch.compile builds its CPU kernels with -fopenmp, and omp.h or the library of OpenMP (libgomp, "
    "libomp) is missing",
    fix="apt-get install --reinstall -y libgomp1 g++; for clang: apt-get install -y libomp-dev",
)
NO_PYTHON_H = fault(
    "compile.compiler.python-h",
    "fail",
    "The headers of Python are missing",
    cause="inductor's kernels, Triton's launcher and C++ extensions include Python.h, and the headers of this "
    "Python are "
    "not installed: torch.compile fails",
    fix="apt-get install -y python<version>-dev  (Fedora: dnf install python3-devel); or an interpreter that "
    "brings them: "
    "uv python install <version>",
    link="https://github.com/pytorch/pytorch/issues/129351",
)
WRAPPER = fault(
    "compile.compiler.wrapper",
    "fail",
    "A compiler cache in front of the compiler fails",
    cause="g++ is a wrapper (ccache, sccache or distcc) that is badly configured or cannot write its folder; "
    "torch.compile fails",
    fix="see ccache --show-config; export CCACHE_DIR to a folder that can be written, or take the wrapper's "
    "folder off PATH",
)
SPACE = fault(
    "compile.compiler.space",
    "fail",
    "The compiler finds no space for its files",
    cause="the temporary folder is full, or a quota is used up",
    fix="free space there, or export TMPDIR to a larger file system",
)
MEMORY = fault(
    "compile.compiler.memory",
    "fail",
    "The compiler is killed for want of memory",
    cause="there is too little memory for a compiler (a limit of the container, or ulimit -v): torch.compile fails",
    fix="give the container or job more memory; ulimit -v unlimited",
)
FOREIGN = fault(
    "compile.compiler.foreign",
    "fail",
    "The compiler builds for another machine",
    cause="what it makes, or the libraries that it finds, are for another architecture: a cross compiler, or a wrong "
    "LIBRARY_PATH",
    fix="use the native compiler: unset CXX, and apt-get install -y g++",
)
FORBIDDEN = fault(
    "compile.compiler.denied",
    "fail",
    "The compiler's programs or files may not be used",
    cause="a part of the compiler, or a header, has no right to be read or executed by this user",
    fix="chmod a+rX what is named; on a mounted disk: mount it without noexec",
)
VARIABLE = fault(
    "compile.compiler.variable",
    "fail",
    "An environment variable breaks the compiler",
    cause="<variable> changes where the compiler looks: with <value> it finds other headers, libraries or "
    "programs than it was built for, and torch.compile fails",
    fix="unset <variable>",
)
UNCLEAR = fault(
    "compile.compiler.fails",
    "fail",
    "The C++ compiler cannot compile a small program",
    cause=f"the C++ compiler is broken or incomplete; {_FAILS}",
    fix="apt-get install --reinstall -y g++, and the package cpp or gcc of the same version",
)
LOADS_NOT = fault(
    "compile.compiler.loads-not",
    "fail",
    "What the compiler builds cannot be loaded",
    cause="the interpreter finds an older libstdc++ or another OpenMP library than the compiler built for, or "
    "the compiler "
    "builds for another CPU; torch.compile fails when it loads its first kernel",
    fix="use the compiler that belongs to the environment (conda install gxx), or unset LD_LIBRARY_PATH",
)
TOO_OLD = fault(
    "compile.standard.old",
    "fail",
    "The C++ compiler is too old for torch.compile",
    cause="torch.compile of this torch writes <standard>, which this compiler does not know",
    fix="install a newer compiler (apt-get install -y g++-12, conda: conda install gxx) and export CXX to it",
)
CC_GONE = fault(
    "compile.cc.gone",
    "fail",
    "CC names a compiler that is gone",
    cause="Triton compiles its launcher with it, and pip what it builds from source: both fail",
    fix="unset CC, or point it to an existing compiler",
    script="unset CC",
)
NO_C = fault(
    "compile.cc.missing",
    "fail",
    "There is no C compiler",
    cause="Triton compiles a launcher for its kernels with gcc or clang: torch.compile for the GPU fails with "
    "'Failed to find C compiler'",
    fix="apt-get install -y gcc  (conda: conda install gcc)",
)
SETUPTOOLS = fault(
    "compile.setuptools.missing",
    "fail",
    "setuptools is missing",
    cause="torch.compile for the CPU and torch.utils.cpp_extension import setuptools, which environments of uv, and of "
    "Python 3.12 or newer, do not bring",
    fix="<python> -m pip install setuptools  (uv: uv pip install setuptools)",
)
NINJA_MISSING = fault(
    "compile.ninja.missing",
    "warn",
    "ninja is missing",
    cause="torch.utils.cpp_extension.load, and DeepSpeed's operations, fail with 'Ninja is required'; torch.compile "
    "does not need it",
    fix="<python> -m pip install ninja",
    script="<python> -m pip install ninja",
    link="https://docs.pytorch.org/docs/stable/cpp_extension.html",
)
NINJA_OFF_PATH = fault(
    "compile.ninja.off-path",
    "warn",
    "ninja is installed, but not on PATH",
    cause="torch looks for the program ninja on PATH: the environment was not activated, so builds of C++ "
    "extensions fail "
    "with 'Ninja is required'",
    fix="activate the environment, or export PATH=<scripts>:$PATH",
    script="export PATH=<scripts>:$PATH",
)
NINJA_BROKEN = fault(
    "compile.ninja.broken",
    "warn",
    "ninja does not run",
    cause="the first ninja on PATH fails: builds of C++ extensions fail with 'Ninja is required'",
    fix="<python> -m pip install --force-reinstall ninja, and put its folder first on PATH",
)

# What the compiler prints, the fault, and the part of the program that can be left out to look for further faults.
# In this order: an earlier one is more exact, or nearer to the root.
RECOGNISED = (
    (r"No space left|Disk quota exceeded", SPACE, None),
    (r"^(s?ccache|distcc)\b.*(error|fail|denied)|(s?ccache|distcc): error", WRAPPER, None),
    (
        r"[Cc]annot allocate memory|virtual memory exhausted|out of memory|Killed signal|failed to map segment",
        MEMORY,
        None,
    ),
    (r"cc1plus.*(No such file|not found)|(No such file|cannot execute).*cc1plus", PARTIAL, None),
    (
        r"cannot find ['‘`]?(ld|as)\b|cannot execute ['‘`]?(as|ld)\b|exec ['‘`]?(as|ld)['’`]?: |"
        r"unable to execute command.*\b(ld|as)\b|invalid linker name",
        BINUTILS,
        None,
    ),
    (r"omp\.h['’:]|-lgomp|libgomp|-lomp\b|libomp", OPENMP, "OpenMP"),
    (r"Python\.h['’:]", NO_PYTHON_H, "Python.h"),
    (r"(stddef|stdarg|limits)\.h['’:].*(No such file|not found)|crtbegin\w*\.o|-lgcc", LIBGCC, None),
    (
        r"-lstdc\+\+|(['‘ ]|error: )(limits|new|cstddef|cstdlib|bits/c\+\+config\.h)['’:].*(No such|not found)",
        LIBSTDCXX,
        None,
    ),
    (r"crt[1in]\.o|-lc\b|-lm\b|-lpthread|\.h['’:].*(No such file|not found)", LIBC, None),
    (r"file in wrong format|incompatible target|skipping incompatible|unrecognized .*opcode", FOREIGN, None),
    (r"[Pp]ermission denied", FORBIDDEN, None),
)
