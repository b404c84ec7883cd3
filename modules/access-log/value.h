/* value.h - the variables of log formats. */
#ifndef ACCESS_LOG_VALUE_H
#define ACCESS_LOG_VALUE_H

#include "format.h"

/* As format_resolve_pt: known names, http_NAME, sent_http_NAME, fact_NAME.
 * Headers that carry credentials are refused. */
int value_resolve(kars_str_t name, uint32_t *ret_var, kars_str_t *ret_rest,
                  kars_err_t *err);

/* As format_get_pt; data is the kars_req_t. */
void value_get(void *data, const format_part_t *part, format_value_t *ret);

#endif
