// The code that decides about a request, kept together so that it can be fetched early: it runs after an engine had the
// caches, and would come from memory line by line.
#pragma once

#define STARLING_ADMISSION_CODE [[gnu::section("admission")]]

// Set by the linker to the ends of that section.
extern "C" {
[[gnu::visibility("hidden")]] extern const char __start_admission[];
[[gnu::visibility("hidden")]] extern const char __stop_admission[];
}
