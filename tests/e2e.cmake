# tests/e2e/test_*.py: the program as a user runs it, by pytest in the witnesses' environment (launch/test.sh makes it).
if(FACETRAIN_SANITIZE)
  return()
endif()
file(GLOB _sources CONFIGURE_DEPENDS e2e/test_*.py)
foreach(_source ${_sources})
  get_filename_component(_file ${_source} NAME)
  string(REGEX REPLACE "^test_(.*)\\.py$" "\\1" _name ${_file})
  set(_processors 1)
  if(_name MATCHES "^(demo|real_faces|training|witness)$")  # two busy ranks most of their time
    set(_processors 2)
  endif()
  add_test(NAME e2e.${_name} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/e2e/run.sh ${_file})
  set_tests_properties(e2e.${_name} PROPERTIES LABELS e2e TIMEOUT 900 PROCESSORS ${_processors} SKIP_RETURN_CODE 77
    ENVIRONMENT "FACETRAIN_PROGRAM=$<TARGET_FILE:facetrain>;PYTHONDONTWRITEBYTECODE=1")
endforeach()
set_tests_properties(e2e.demo PROPERTIES COST -0.5)  # six minutes: after all others, before the sanitizers
