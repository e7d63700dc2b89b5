# cmake -D SOURCE=.. -D HEADER=.. -P commit.cmake: writes FACETRAIN_COMMIT, the commit of the tree ("" outside of git), and
# touches the header only when that has changed.
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty=+ --abbrev=10 --exclude=*
  OUTPUT_VARIABLE _commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
file(CONFIGURE OUTPUT ${HEADER} CONTENT "#define FACETRAIN_COMMIT \"${_commit}\"\n")
