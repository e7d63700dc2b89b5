# tests/e2e/*_test.py: the program as a user runs it, by pytest in the witnesses' environment (launch/test.sh makes it).
if(FACETRAIN_SANITIZE)
  return()
endif()
file(GLOB _sources CONFIGURE_DEPENDS e2e/*_test.py)
foreach(_source ${_sources})
  get_filename_component(_name ${_source} NAME_WE)
  string(REGEX REPLACE "_test$" "" _name ${_name})
  add_test(NAME e2e.${_name} COMMAND ${PROJECT_SOURCE_DIR}/launch/witness.sh -m pytest -q -p no:cacheprovider ${_source})
  set_tests_properties(e2e.${_name} PROPERTIES LABELS e2e TIMEOUT 900 PROCESSORS 2 SKIP_RETURN_CODE 77
    ENVIRONMENT "FACETRAIN_PROGRAM=$<TARGET_FILE:facetrain>;PYTHONDONTWRITEBYTECODE=1")
endforeach()
