# Included by liboqs' own project(): adds a source file to its library, which is there when this folder has been read.
set(SUPPORTS_CTX_STR ${CMAKE_CURRENT_LIST_DIR}/supports_ctx_str.c)
cmake_language(DEFER CALL target_sources oqs PRIVATE ${SUPPORTS_CTX_STR})
