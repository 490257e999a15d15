/* The entry points that TensorRT's Python bindings link to, so that they import without TensorRT. None is ever called. */
#define STUB(name) void *name(void) { return 0; }
STUB(createInferBuilder_INTERNAL)
STUB(createInferRefitter_INTERNAL)
STUB(createInferRuntime_INTERNAL)
STUB(createNvOnnxParser_INTERNAL)
STUB(createNvOnnxParserRefitter_INTERNAL)
STUB(getBuilderPluginRegistry)
STUB(getNvOnnxParserVersion)
STUB(getPluginRegistry)
STUB(initLibNvInferPlugins)
/* TensorRT 8: the UFF and Caffe parsers */
STUB(_ZN11nvuffparser15createUffParserEv)
STUB(_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi)
STUB(_ZN14nvcaffeparser117createCaffeParserEv)
STUB(_ZN14nvcaffeparser123shutdownProtobufLibraryEv)
