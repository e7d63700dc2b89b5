# Labels `style` (formatting, scripts, who includes whom) and `sanitize` (unit tests that matter, built with sanitizers while they run).
# Called from the release build only: a sanitizer build runs its programs directly (launch/sanitize.sh).
if(FACETRAIN_SANITIZE)
  return()
endif()

add_test(NAME style.format COMMAND ${PROJECT_SOURCE_DIR}/launch/format.sh --check)
set_tests_properties(style.format PROPERTIES LABELS style TIMEOUT 120)
add_test(NAME style.layering COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/style/layering.sh)
set_tests_properties(style.layering PROPERTIES LABELS style TIMEOUT 60)
add_test(NAME style.examples COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/style/examples.sh)
set_tests_properties(style.examples PROPERTIES LABELS style TIMEOUT 60)
find_program(SHELLCHECK shellcheck)
if(SHELLCHECK)
  file(GLOB _scripts ${PROJECT_SOURCE_DIR}/launch/*.sh ${PROJECT_SOURCE_DIR}/tests/*/*.sh)
  add_test(NAME style.scripts COMMAND ${SHELLCHECK} -x -S warning ${_scripts}
    ${PROJECT_SOURCE_DIR}/launch/slurm.sbatch ${PROJECT_SOURCE_DIR}/.ci/run WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(style.scripts PROPERTIES LABELS style TIMEOUT 60)
endif()

# What threads and memory can break: communicators, the loader, the checkpointer. COST puts them last.
foreach(_case "tsan comm" "asan comm" "tsan data" "asan data" "tsan trainer" "asan trainer")
  separate_arguments(_words UNIX_COMMAND ${_case})
  list(GET _words 0 _preset)
  list(GET _words 1 _folder)
  if(TARGET ${_folder}_test)
    add_test(NAME sanitize.${_preset}.${_folder}
      COMMAND ${PROJECT_SOURCE_DIR}/launch/sanitize.sh ${_preset} ${_folder}_test)
    set_tests_properties(sanitize.${_preset}.${_folder} PROPERTIES
      LABELS sanitize TIMEOUT 3600 PROCESSORS 2 COST -1 SKIP_RETURN_CODE 77)
  endif()
endforeach()
